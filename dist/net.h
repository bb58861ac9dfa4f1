/* TCP between ranks: whole messages of known length.  Failures are return values: what they mean is the caller's to
 * say. */
#pragma once

#include "base/err.h"

/* A listening socket on *port (0: any, which is told), on all addresses. */
Status net_listen(int *fd, int *port, Err *err) MUST_CHECK;
/* Tries until somebody listens there or `seconds` are over. */
Status net_connect(int *fd, const char *host, int port, double seconds, Err *err) MUST_CHECK;
/* Waits `seconds` for a connection. */
Status net_accept(int *fd, int listener, double seconds, Err *err) MUST_CHECK;
/* False: the other side is gone. */
bool net_send(int fd, const void *data, size_t n);
bool net_receive(int fd, void *data, size_t n);
