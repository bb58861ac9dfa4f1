#define _GNU_SOURCE /* getaddrinfo, SOCK_CLOEXEC */
#include "dist/net.h"

#include "base/clock.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 1024, RETRY_MS = 100 };

/* Small messages go at once, and a peer whose host is gone is noticed. */
static void tune(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

Status net_listen(int *out, int *port, Err *err)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)*port),
                            .sin_addr.s_addr = htonl(INADDR_ANY)};
    socklen_t len = sizeof a;
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) != 0) {
        Status s = err_set(err, E_FAILED, "port %d: %s; set MASTER_PORT to a free one", *port,
                           strerror(errno));
        if (fd >= 0) close(fd);
        return s;
    }
    *out = fd;
    *port = ntohs(a.sin_port);
    return OK;
}

static int try_connect(const char *host, int port, char *why, size_t n)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *list;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    int e = getaddrinfo(host, service, &hints, &list);
    if (e != 0) {
        snprintf(why, n, "%s", gai_strerror(e));
        return -1;
    }
    int fd = -1;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0) break;
        snprintf(why, n, "%s", strerror(errno));
        if (fd >= 0) close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

Status net_connect(int *out, const char *host, int port, double seconds, Err *err)
{
    double until = seconds_monotonic() + seconds;
    char why[256] = "";
    do {
        *out = try_connect(host, port, why, sizeof why);
        if (*out >= 0) {
            tune(*out);
            return OK;
        }
        poll(NULL, 0, RETRY_MS);
    } while (seconds_monotonic() < until);
    return err_set(err, E_FAILED, "rank 0 at %s, port %d, does not answer in %.0f s: %s", host,
                   port, seconds, why);
}

Status net_accept(int *out, int listener, double seconds, Err *err)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};
    double until = seconds_monotonic() + seconds;
    for (double left = seconds; left > 0; left = until - seconds_monotonic()) {
        if (poll(&p, 1, (int)(left * 1000)) <= 0) continue;
        *out = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (*out < 0) continue;
        tune(*out);
        return OK;
    }
    return err_set(err, E_FAILED, "not all ranks came within %.0f s", seconds);
}

bool net_send(int fd, const void *data, size_t n)
{
    for (const char *at = data; n > 0;) {
        ssize_t k = send(fd, at, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        at += k;
        n -= (size_t)k;
    }
    return true;
}

bool net_receive(int fd, void *data, size_t n)
{
    for (char *at = data; n > 0;) {
        ssize_t k = recv(fd, at, n, 0);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        at += k;
        n -= (size_t)k;
    }
    return true;
}
