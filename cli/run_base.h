/* How the base was kept on which an adapter was trained. */
#pragma once

#include "base/log.h"
#include "model/quant.h"

/* From the config.yaml that `lorac train` leaves in the adapter's folder, of a checkpoint in the one above: of a run with
 * method qlora that quantised its base by itself.  Type QUANT_NONE: no such file, or another run; or one with PiSSA, which
 * a note says, as its base lost its principal part before it was quantised.  E_INPUT: a value that is none. */
Status run_base_read(QuantOpts *out, const char *adapter, Log *log, Err *err) MUST_CHECK;
