#define _GNU_SOURCE /* getaddrinfo, SOCK_CLOEXEC */
#include "dist/net.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 1024, RETRY_MS = 100, LOOK_MS = 1000 };

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

/* Signals end a poll, whatever their handlers ask for; LOOK_MS is for one that comes just before it. */
static bool wait_for(int fd, short events, double until, NetStop *stop)
{
    struct pollfd p = {.fd = fd, .events = events};
    do {
        double left = (until - seconds_monotonic()) * 1000;
        int ms = left < 0 ? 0 : left < LOOK_MS ? (int)left + 1 : LOOK_MS;
        if (stop && stop()) return false;
        if (poll(&p, 1, ms) > 0) return true;
    } while (seconds_monotonic() < until);
    return false;
}

bool net_wait(int fd, double seconds, NetStop *stop)
{
    return wait_for(fd, POLLIN, seconds_monotonic() + seconds, stop);
}

/* A host that swallows what is sent to it keeps a plain connect() for minutes. */
static bool connect_by(int fd, const struct addrinfo *a, double until, NetStop *stop)
{
    int flags = fcntl(fd, F_GETFL), error = 0;
    socklen_t len = sizeof error;
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    if (connect(fd, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS) return false;
    if (!wait_for(fd, POLLOUT, until, stop)) {
        errno = ETIMEDOUT;
        return false;
    }
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    fcntl(fd, F_SETFL, flags);
    errno = error;
    return error == 0;
}

static int try_connect(const char *host, int port, double until, NetStop *stop, char *why, size_t n)
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
        if (fd >= 0 && connect_by(fd, a, until, stop)) break;
        snprintf(why, n, "%s", strerror(errno));
        if (fd >= 0) close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

Status net_connect(int *out, const char *host, int port, double seconds, NetStop *stop, Err *err)
{
    double until = seconds_monotonic() + seconds;
    char why[256] = "";
    do {
        *out = try_connect(host, port, until, stop, why, sizeof why);
        if (*out >= 0) {
            tune(*out);
            return OK;
        }
        if (stop && stop())
            return err_set(err, E_FAILED, "stopped by %s before rank 0 at %s, port %d, answered",
                           stop(), host, port);
        poll(NULL, 0, RETRY_MS);
    } while (seconds_monotonic() < until);
    return err_set(err, E_FAILED, "rank 0 at %s, port %d, does not answer in %.0f s: %s", host,
                   port, seconds, why);
}

Status net_accept(int *out, int listener, double seconds, Err *err)
{
    double until = seconds_monotonic() + seconds;
    while (wait_for(listener, POLLIN, until, NULL)) {
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
