/* Scalars in an event file that TensorBoard opens (tensorflow: event.proto, summary.proto,
 * record_writer.cc): records of protobuf, each framed by its length and masked CRC-32C sums. */
#pragma once

#include "base/str.h"

#include <stdint.h>

/* One framed record: the first of a file; a scalar. */
void event_version_record(StrBuf *out, double wall_time);
void event_scalar_record(StrBuf *out, double wall_time, int64_t step, const char *tag, float value);

typedef struct EventFile EventFile;

/* DIR/events.out.tfevents.SECONDS.HOST.PID, a new file for every start of a run; `dir` is made. */
Status event_file_open(EventFile **out, const char *dir, Err *err) MUST_CHECK;
void event_file_scalar(EventFile *f, int64_t step, const char *tag, double value);
/* Hands what was written to the system, so that TensorBoard sees it. */
void event_file_flush(EventFile *f);
/* Tells the first write error.  NULL is fine. */
Status event_file_close(EventFile *f, Err *err) MUST_CHECK;
