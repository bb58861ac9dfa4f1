/* TCP between ranks: whole messages of known length.  Failures are return values: what they mean is the caller's to
 * say. */
#pragma once

#include "base/err.h"

/* A listening socket on *port (0: any, which is told), on all addresses. */
Status net_listen(int *fd, int *port, Err *err) MUST_CHECK;
/* What asks a wait to end early, such as "SIGTERM"; NULL: nothing yet.  It is looked at every second, and when a signal comes. */
typedef const char *NetStop(void);
/* Tries until somebody listens there, `seconds` are over or `stop` (or NULL) asks. */
Status net_connect(int *fd, const char *host, int port, double seconds, NetStop *stop,
                   Err *err) MUST_CHECK;
/* Waits `seconds` for a connection. */
Status net_accept(int *fd, int listener, double seconds, Err *err) MUST_CHECK;
/* Whether there is something to read, a connection or the other side's end; false: not within `seconds`, or `stop` (or NULL) asks. */
bool net_wait(int fd, double seconds, NetStop *stop);
/* False: the other side is gone. */
bool net_send(int fd, const void *data, size_t n);
bool net_receive(int fd, void *data, size_t n);
