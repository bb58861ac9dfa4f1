/* What to set when the device has no room: what is not yet at its end, the least change first, in keys of a config or in
 * flags of `lorac bench`.  Named, not planned: trainer/plan.h says what would do. */
#pragma once

#include "base/advice.h"
#include "trainer/bench.h"

/* Into out[ADVICE_MAX], which is returned.  The config's recompute is what cfg->mix says; `ranks` share it. */
const char *when_full_train(char *out, const TrainConfig *cfg, int ranks);
/* level: to which recompute can be taken, or is; of several the bench's own ranks. */
const char *when_full_bench(char *out, const BenchOpts *o, Recompute level);
