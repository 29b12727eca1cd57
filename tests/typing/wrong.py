"""What a type checker must refuse; each line is wrong in one way."""

from tiered_store import AsyncClient, Client

Client(on_unavailable="maybe")
Client(5)
Client().get(b"k")
Client().put("k", "text")
Client().put("k", b"", metadata={"a": 1})
Client().put_many({"k": None})
Client().get("k", 1, 2)
Client().nothing()
AsyncClient().get("k").decode()
