/* Transfers: a tensor's contents between a device and host memory that has a Device of its own (backend cpu), beside what
 * computes.  Only pinned memory (DeviceOpts.pinned_by) makes them so; else the host waits for each. */
#pragma once

#include "tensor/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `to` becomes `from`: alike, dense, on d or on a device of host memory; in d's stream in use. */
void transfer_copy(Device *d, Tensor *to, const Tensor *from);
/* The same on stream s, after what was issued to the compute stream so far.  Returns the event at its end: until then
 * nobody writes `from` or touches `to`. */
int64_t transfer_begin(Device *d, StreamId s, Tensor *to, const Tensor *from);
/* Stream s goes on after the event. */
void transfer_await(Device *d, StreamId s, int64_t event);

#ifdef __cplusplus
}
#endif
