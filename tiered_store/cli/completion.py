"""Completion in bash for words with colons, which keys of artifacts have.

Bash takes a colon for the end of a word, and so some other characters that keys may have (``COMP_WORDBREAKS``): what it
passes to a completion are the splinters, and what it gets back takes the place of the last one. Here the line itself is
looked at, and of each answer the part is taken off that bash does not replace.
"""

from __future__ import annotations

import os

from click.shell_completion import BashComplete, split_arg_string

__all__ = ["BashLine"]

#: ``$2`` is the splinter before the cursor, so that ``kept`` is what of the word bash leaves where it is.
_SCRIPT = r"""
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$'\n' completion type value
    local word=${line##*[[:blank:]]}
    local kept=${word%%"$2"}

    for completion in $(env COMP_WORDS="$line" %(complete_var)s=bash_complete $1); do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            plain) COMPREPLY+=("${value#"$kept"}") ;;
        esac
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class BashLine(BashComplete):
    """Completes the last word of a line that comes whole, in ``COMP_WORDS``, up to the cursor."""

    source_template = _SCRIPT

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one to complete, and what there is of that one."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        is_begun = bool(words) and not line[-1:].isspace()
        return (words[:-1], words[-1]) if is_begun else (words, "")
