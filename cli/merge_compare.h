/* How far a merged model's predictions are from those of the model and adapter that it was made of. */
#pragma once

#include "cli/model_open.h"

/* Mean over n tokens (drawn, the same for both) of the Kullback-Leibler divergence of the merged model's next-token
 * distribution from the unmerged one's, in nats.  unmerged: model folder and adapter; merged: the folder that came of them. */
Status merge_compare(double *kl, const ModelFlags *unmerged, const char *merged, int64_t n,
                     Log *log, Err *err) MUST_CHECK;
