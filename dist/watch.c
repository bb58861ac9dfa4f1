#define _GNU_SOURCE /* poll, clock */
#include "dist/watch.h"

#include "base/clock.h"
#include "base/str.h"
#include "dist/net.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATIENCE = 120, HELLO_PATIENCE = 10, LOOK_MS = 250, REPORT_SECONDS = 3, TEXT = 512 };

typedef enum MessageKind {
    HELLO,  /* to rank 0: who I am */
    TOLD,   /* to rank 0: I said why I end */
    LATE,   /* to rank 0: I wait for too long */
    REPORT, /* to rank 0: where I am */
    ASK,    /* from rank 0: where are you? */
    END     /* from rank 0: it is over */
} MessageKind;

typedef struct Message {
    int32_t kind, rank;
    char text[TEXT];
} Message;

typedef struct Peer {
    int fd; /* -1: left, or not there */
    char host[64];
    bool reported;
    char report[TEXT];
} Peer;

struct Watch {
    Comm *hosts;
    const Comm *volatile comm;
    volatile double timeout;
    volatile bool stopping;  /* a connection that ends is no death */
    pthread_mutex_t looking; /* held while comm and its device are looked at */
    char host[64];
    Peer *peers; /* rank 0: by rank; others: [0] is rank 0 */
    int n_peers;
    int wake[2]; /* a pipe: watch_stop writes */
    pthread_t thread;
};

/* ---- where this rank is ----------------------------------------------------------------------- */

/* The first call that is not done, or the one that the host is in; NULL: none. */
static const CommCall *oldest_call(const Comm *c)
{
    int64_t n = c->n_calls, first = n > COMM_CALLS ? n - COMM_CALLS : 0;
    for (int64_t i = first; i < n; i++) {
        const CommCall *call = &c->calls[i % COMM_CALLS];
        bool inside = c->in_call && i == n - 1;
        if (inside || (call->event > 0 && !device_happened(c->dev, call->event))) return call;
    }
    return NULL;
}

static const CommCall *waits_in(const Watch *w, double *seconds)
{
    const CommCall *call = w->comm ? oldest_call(w->comm) : NULL;
    if (!call) call = oldest_call(w->hosts);
    if (call) *seconds = seconds_monotonic() - call->began;
    return call;
}

static int64_t step_now(const Watch *w)
{
    return w->comm ? w->comm->step : 0;
}

static const char *describe(const Watch *w, char *buf, size_t n)
{
    double seconds;
    const CommCall *call = waits_in(w, &seconds);
    if (call)
        snprintf(buf, n, "waits in %s%s%s, step %lld, for %.0f s", call->op,
                 call->of[0] ? " of " : "", call->of, (long long)step_now(w), seconds);
    else
        snprintf(buf, n, "is in step %lld and waits for nobody", (long long)step_now(w));
    return buf;
}

/* ---- the end ---------------------------------------------------------------------------------- */

static void send_to(Watch *w, int fd, MessageKind kind, const char *text)
{
    Message m = {.kind = kind, .rank = w->hosts->rank};
    if (text) snprintf(m.text, sizeof m.text, "%s", text);
    if (fd >= 0) net_send(fd, &m, sizeof m);
}

static void send_all(Watch *w, MessageKind kind)
{
    for (int i = 0; i < w->n_peers; i++)
        send_to(w, w->peers[i].fd, kind, NULL);
}

/* Without exit handlers: other threads are in the middle of things. */
NO_RETURN static void leave(void)
{
    fflush(stderr);
    _exit(1);
}

NO_RETURN static void end_all(Watch *w)
{
    send_all(w, END);
    leave();
}

/* The process is about to end; the others must not wait for it. */
static void tell_panic(void *ud, const char *message)
{
    Watch *w = ud;
    double seconds;
    char where[TEXT] = "";
    const CommCall *call = waits_in(w, &seconds);
    if (call)
        snprintf(where, sizeof where, ", %s%s%s", call->op, call->of[0] ? " of " : "", call->of);
    fprintf(stderr, "lorac: rank %d of %d on %s, step %lld%s: %s\n", w->hosts->rank, w->hosts->size,
            w->host, (long long)step_now(w), where, message);
    if (w->hosts->rank == 0) end_all(w);
    send_to(w, w->peers[0].fd, TOLD, NULL);
    poll(NULL, 0, 1000 * REPORT_SECONDS); /* rank 0 ends this process with the others */
    leave();
}

/* ---- rank 0 ----------------------------------------------------------------------------------- */

static bool all_reported(const Watch *w)
{
    for (int i = 1; i < w->n_peers; i++)
        if (w->peers[i].fd >= 0 && !w->peers[i].reported) return false;
    return true;
}

static bool receive(Peer *p, Message *m)
{
    if (net_receive(p->fd, m, sizeof *m)) {
        m->text[TEXT - 1] = 0;
        return true;
    }
    close(p->fd);
    p->fd = -1;
    return false;
}

static void collect_reports(Watch *w)
{
    double until = seconds_monotonic() + REPORT_SECONDS;
    send_all(w, ASK);
    while (!all_reported(w) && seconds_monotonic() < until)
        for (int i = 1; i < w->n_peers; i++) {
            Message m;
            Peer *p = &w->peers[i];
            struct pollfd f = {.fd = p->fd, .events = POLLIN};
            if (p->fd < 0 || poll(&f, 1, 10) <= 0 || !receive(p, &m) || m.kind != REPORT) continue;
            p->reported = true;
            memcpy(p->report, m.text, TEXT);
        }
}

NO_RETURN static void report_late(Watch *w)
{
    char own[TEXT];
    collect_reports(w);
    fprintf(stderr, "lorac: ranks wait for each other for more than %.0f s (parallel.timeout):\n",
            w->timeout);
    fprintf(stderr, "  rank 0 on %s %s\n", w->host, describe(w, own, sizeof own));
    for (int i = 1; i < w->n_peers; i++)
        fprintf(stderr, "  rank %d on %s %s\n", i, w->peers[i].host,
                w->peers[i].reported ? w->peers[i].report : "does not answer");
    end_all(w);
}

static void hear_rank(Watch *w, int rank)
{
    Peer *p = &w->peers[rank];
    Message m;
    if (!receive(p, &m)) {
        if (w->stopping) return;
        fprintf(stderr,
                "lorac: rank %d of %d on %s ended without a word in step %lld: killed, or out of "
                "the host's "
                "memory; ending the others\n",
                rank, w->n_peers, p->host, (long long)step_now(w));
        end_all(w);
    }
    if (m.kind == TOLD) end_all(w);
    if (m.kind == LATE) report_late(w);
}

/* ---- the others ------------------------------------------------------------------------------- */

static void hear_first(Watch *w)
{
    char text[TEXT];
    Message m;
    if (!receive(&w->peers[0], &m)) {
        if (w->stopping) return;
        if (w->hosts->rank == 1)
            fprintf(stderr,
                    "lorac: rank 0 of %d on %s ended without a word in step %lld: killed, or out "
                    "of the "
                    "host's memory; ending the others\n",
                    w->hosts->size, w->peers[0].host, (long long)step_now(w));
        leave();
    }
    if (m.kind == END) leave();
    if (m.kind == ASK) send_to(w, w->peers[0].fd, REPORT, describe(w, text, sizeof text));
}

/* ---- the thread ------------------------------------------------------------------------------- */

static void look_at_clock(Watch *w)
{
    double seconds = 0, timeout = w->timeout;
    if (timeout <= 0 || !waits_in(w, &seconds) || seconds < timeout) return;
    if (w->hosts->rank == 0) report_late(w);
    send_to(w, w->peers[0].fd, LATE, NULL);
    w->timeout = 0;
}

static void *watch_thread(void *arg)
{
    Watch *w = arg;
    struct pollfd *fds = xcalloc((size_t)w->n_peers + 1, sizeof *fds);
    for (;;) {
        for (int i = 0; i < w->n_peers; i++)
            fds[i] = (struct pollfd){.fd = w->peers[i].fd, .events = POLLIN};
        fds[w->n_peers] = (struct pollfd){.fd = w->wake[0], .events = POLLIN};
        int n = poll(fds, (nfds_t)w->n_peers + 1, LOOK_MS);
        if (n > 0 && fds[w->n_peers].revents) break;
        pthread_mutex_lock(&w->looking);
        for (int i = 0; i < w->n_peers && n > 0; i++)
            if (fds[i].revents && w->hosts->rank == 0)
                hear_rank(w, i);
            else if (fds[i].revents)
                hear_first(w);
        look_at_clock(w);
        pthread_mutex_unlock(&w->looking);
    }
    free(fds);
    return NULL;
}

/* ---- starting and stopping -------------------------------------------------------------------- */

typedef struct Address {
    char host[64];
    int32_t port;
} Address;

static Status take_peers(Watch *w, int listener, Err *err)
{
    for (int i = 1; i < w->n_peers; i++) {
        int fd;
        Message m;
        TRY(net_accept(&fd, listener, PATIENCE, err));
        /* a stranger who says nothing keeps nobody waiting for long */
        if (!net_wait(fd, HELLO_PATIENCE, NULL) || !net_receive(fd, &m, sizeof m) ||
            m.kind != HELLO || m.rank < 1 || m.rank >= w->n_peers || w->peers[m.rank].fd >= 0) {
            close(fd);
            i--;
            continue;
        }
        w->peers[m.rank].fd = fd;
    }
    return OK;
}

static Status connect_peers(Watch *w, Err *err)
{
    Comm *c = w->hosts;
    int listener = -1, port = 0;
    Status s = c->rank == 0 ? net_listen(&listener, &port, err) : OK;
    TRY(comm_agree(c, s, err));
    Address mine = {.port = port}, *all = xcalloc((size_t)c->size, sizeof *all);
    snprintf(mine.host, sizeof mine.host, "%s", w->host);
    comm_exchange(c, all, &mine, sizeof mine);
    for (int i = 0; i < w->n_peers; i++)
        snprintf(w->peers[i].host, sizeof w->peers[i].host, "%s", all[i].host);
    if (c->rank == 0) {
        s = take_peers(w, listener, err);
        close(listener);
    } else {
        const char *host = str_eq(all[0].host, w->host) ? "127.0.0.1" : all[0].host;
        s = net_connect(&w->peers[0].fd, host, all[0].port, PATIENCE, NULL, err);
        if (s == OK) send_to(w, w->peers[0].fd, HELLO, NULL);
    }
    free(all);
    return comm_agree(c, s, err);
}

static void watch_free(Watch *w)
{
    for (int i = 0; i < w->n_peers; i++)
        if (w->peers[i].fd >= 0) close(w->peers[i].fd);
    for (int i = 0; i < 2; i++)
        if (w->wake[i] >= 0) close(w->wake[i]);
    pthread_mutex_destroy(&w->looking);
    free(w->peers);
    free(w);
}

Status watch_start(Watch **out, Comm *hosts, Err *err)
{
    *out = NULL;
    if (hosts->size == 1) return OK;
    Watch *w = xcalloc(1, sizeof *w);
    *w = (Watch){.hosts = hosts, .n_peers = hosts->rank == 0 ? hosts->size : 1, .wake = {-1, -1}};
    pthread_mutex_init(&w->looking, NULL);
    gethostname(w->host, sizeof w->host - 1);
    w->peers = xcalloc((size_t)w->n_peers, sizeof *w->peers);
    for (int i = 0; i < w->n_peers; i++)
        w->peers[i].fd = -1;
    Status s = connect_peers(w, err);
    if (s == OK && pipe(w->wake) != 0) s = err_set(err, E_FAILED, "no pipe for the watch");
    if (s == OK && pthread_create(&w->thread, NULL, watch_thread, w) != 0)
        s = err_set(err, E_FAILED, "no thread for the watch");
    if (s != OK) {
        watch_free(w);
        return s;
    }
    panic_set_hook(tell_panic, w);
    *out = w;
    return OK;
}

void watch_comm(Watch *w, const Comm *c, double timeout)
{
    if (!w) return;
    pthread_mutex_lock(&w->looking);
    w->comm = c;
    w->timeout = timeout;
    pthread_mutex_unlock(&w->looking);
}

void watch_stop(Watch *w)
{
    if (!w) return;
    watch_comm(w, NULL, 0);
    comm_barrier(w->hosts);
    w->stopping = true;
    comm_barrier(w->hosts); /* nobody hangs up before all know that it may be */
    panic_set_hook(NULL, NULL);
    bool woken = write(w->wake[1], "", 1) == 1;
    if (woken) pthread_join(w->thread, NULL);
    watch_free(w);
}
