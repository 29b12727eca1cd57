/*
 * The floor under every server on this machine: two C processes that pass a message of SIZE bytes to and
 * fro over a unix stream socket pair. The one that answers waits with epoll, as servers do; the other
 * blocks in read, as a synchronous client does.
 *
 *     cping SIZE COUNT      prints nanoseconds per round trip, the median of COUNT
 *
 * Which CPUs they run on is the caller's choice: they inherit its affinity.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n <= 0) exit(1);
        data += n;
        size -= (size_t)n;
    }
}

/* Returns 0 at the end of the stream. */
static int read_all(int fd, char *data, size_t size) {
    while (size > 0) {
        ssize_t n = read(fd, data, size);
        if (n <= 0) return 0;
        data += n;
        size -= (size_t)n;
    }
    return 1;
}

static void serve(int fd, char *data, size_t size) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    int poll = epoll_create1(0);
    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
    while (epoll_wait(poll, &event, 1, -1) == 1) {
        if (!read_all(fd, data, size)) return;
        write_all(fd, data, size);
    }
}

static int ascending(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

static long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    size_t size = strtoul(argv[1], NULL, 10);
    long count = strtol(argv[2], NULL, 10);
    char *data = calloc(size, 1);
    long *times = calloc((size_t)count, sizeof *times);
    int ends[2];
    if (!data || !times || count < 1 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 1;
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        serve(ends[1], data, size);
        return 0;
    }
    close(ends[1]);
    for (long i = 0; i < count; i++) {
        long start = now_ns();
        write_all(ends[0], data, size);
        if (!read_all(ends[0], data, size)) return 1;
        times[i] = now_ns() - start;
    }
    close(ends[0]);
    waitpid(child, NULL, 0);
    qsort(times, (size_t)count, sizeof *times, ascending);
    printf("%ld\n", times[count / 2]);
    return 0;
}
