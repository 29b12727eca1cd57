/*
 * A load generator for HTTP over a unix socket: CONNECTIONS connections in one process, each with one GET of PATH
 * under way at a time, COUNT in all, on one epoll.
 *
 *     chttp SOCKET PATH CONNECTIONS COUNT SIZE      prints nanoseconds per request, over all of them
 *
 * Every answer must be a 200 with a Content-Length of SIZE; what follows is read and not looked at.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 8192
#define BUFFER (256 * 1024)

struct peer {
    int fd;
    size_t have;        /* bytes of the head so far */
    size_t missing;     /* bytes of the body still to come; meaningful once in_body */
    int in_body;
    char head[HEAD_MAX + 1];
};

static char request[4096];
static size_t request_size;
static long left_to_send, left_to_read;

static void fail(const char *why) {
    fprintf(stderr, "chttp: %s\n", why);
    exit(1);
}

static void ask(struct peer *peer) {
    if (left_to_send == 0) return;
    left_to_send--;
    peer->have = 0;
    peer->in_body = 0;
    if (write(peer->fd, request, request_size) != (ssize_t)request_size) fail("a request could not be written at once");
}

/* Takes the head where it is complete; the bytes behind it count as body. */
static void take_head(struct peer *peer, size_t size) {
    peer->head[peer->have] = 0;
    char *end = strstr(peer->head, "\r\n\r\n");
    if (!end) {
        if (peer->have == HEAD_MAX) fail("an answer's head is too long");
        return;
    }
    if (strncmp(peer->head, "HTTP/1.1 200", 12) != 0) fail(peer->head);
    char *length = strcasestr(peer->head, "\r\ncontent-length:");
    if (!length || strtoul(length + 17, NULL, 10) != size) fail("an answer has another size");
    size_t beyond = peer->have - (size_t)(end + 4 - peer->head);
    if (beyond > size) fail("more came than was asked for");
    peer->in_body = 1;
    peer->missing = size - beyond;
}

static void readable(struct peer *peer, size_t size, char *buffer) {
    if (!peer->in_body) {
        ssize_t n = read(peer->fd, peer->head + peer->have, HEAD_MAX - peer->have);
        if (n <= 0) fail("a connection was closed");
        peer->have += (size_t)n;
        take_head(peer, size);
    } else {
        ssize_t n = read(peer->fd, buffer, BUFFER);
        if (n <= 0) fail("a connection was closed in a body");
        if ((size_t)n > peer->missing) fail("more came than was asked for");
        peer->missing -= (size_t)n;
    }
    if (peer->in_body && peer->missing == 0) {
        left_to_read--;
        ask(peer);
    }
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    int connections = atoi(argv[3]);
    long count = atol(argv[4]);
    size_t size = strtoul(argv[5], NULL, 10);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(argv[1]) >= sizeof address.sun_path || connections < 1 || count < connections) return 2;
    strcpy(address.sun_path, argv[1]);
    request_size = (size_t)snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n", argv[2]);
    if (request_size >= sizeof request) return 2;
    struct peer *peers = calloc((size_t)connections, sizeof *peers);
    char *buffer = malloc(BUFFER);
    int poll = epoll_create1(0);
    if (!peers || !buffer || poll < 0) return 1;
    for (int i = 0; i < connections; i++) {
        peers[i].fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(peers[i].fd, (struct sockaddr *)&address, sizeof address) != 0) fail("cannot connect");
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &peers[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, peers[i].fd, &event);
    }
    left_to_send = left_to_read = count;
    struct timespec begun, ended;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (int i = 0; i < connections; i++) ask(&peers[i]);
    struct epoll_event events[64];
    while (left_to_read > 0) {
        int n = epoll_wait(poll, events, 64, 30000);
        if (n <= 0) fail("no answer for 30 s");
        for (int i = 0; i < n; i++) readable(events[i].data.ptr, size, buffer);
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double ns = (double)(ended.tv_sec - begun.tv_sec) * 1e9 + (double)(ended.tv_nsec - begun.tv_nsec);
    printf("%.0f\n", ns / (double)count);
    return 0;
}
