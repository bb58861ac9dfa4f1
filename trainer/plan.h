/* What a run will take, known before it runs: its own step code on a device that computes nothing.
 *
 * The peak is that of the allocator, to the byte: every micro-batch of the run that no other one exceeds in
 * tokens, trained tokens and documents is tried, with the evaluation beside it. */
#pragma once

#include "kernels/meter.h"
#include "trainer/staging.h"

typedef struct RunPlan {
    MemStats mem;  /* live after the steps; at the peak */
    size_t extent; /* of the region: the peak, and what lies idle between blocks */

    /* One optimizer step, the first. */
    int64_t n_micro, n_tokens, n_trained, n_docs; /* tokens without padding */
    MeterCount products, attention, other;        /* floor: at the GPU's rates */
    double optimizer_floor;                       /* of `other`: norm of the gradient and AdamW */
    int ranks;             /* tokens and documents are those of all, the rest is of each */
    double sent_bytes;     /* by a rank in that step, as rings move them */
    double sent_uncovered; /* of these after the last pass, where nothing computes meanwhile */
    HostNeed host;         /* of each rank, with parallel.offload */
    double moved[MOVED_N]; /* bytes from and to host memory, by a rank in that step */
    double host_bytes;     /* that its cores read and write there in AdamW */

    Staging staging; /* of the host, for checkpoints: a rank's */

    int64_t n_layers;
    char base[160];      /* how a quantised one is kept (quant_base_text); "" */
    bool assumed;        /* no data: full rows of data.max_length, every token trained */
    int64_t n_seen;      /* micro-batches compared */
    int n_tried;         /* of which so many were run */
    int64_t epochs_seen; /* the others are packed alike, but not the same */
    int64_t epochs;      /* of the run */
} RunPlan;

/* train and eval may be NULL.  bytes: what the device has for tensors; train.recompute auto becomes cfg->mix, the fastest that
 * fits them, or full; before that model.embedding auto goes to the host (cfg->embed_on_host) where it may.  gpu: for the floors, or NULL.  Nothing of cfg's device is opened. */
Status plan_run(RunPlan *out, TrainConfig *cfg, const Dataset *train, const Dataset *eval,
                const PlanTarget *target, size_t bytes, const GpuSpec *gpu, Log *log,
                Problems *problems) MUST_CHECK;

/* Settings under which a run that does not fit would. */
typedef struct PlanAdvice {
    int64_t micro;
    int64_t eval_tokens; /* eval.tokens; 0: as it is */
    int zero;            /* parallel.zero; 0: as it is */
    bool embed_host;     /* model.embedding: host */
    bool bf16_gradients; /* train.gradients: bf16 */
    bool recompute;      /* train.recompute: auto, without recompute_layers */
    bool in_backward;    /* train.update: in_backward, and clipping by block where there is any */
    bool qlora;          /* method: qlora, which changes numbers */
    Offload offload;     /* parallel.offload; none: as it is */
    HostNeed host;       /* with it */
    RecomputeMix mix;
    size_t extent;
} PlanAdvice;

enum { PLAN_MAX_ADVICE = 8 };
/* The dearest settings (in memory) that fit `bytes`, each by itself: a smaller eval.tokens; the embedding on the host; several ranks at a higher stage; a smaller
 * batch.micro alone; with recompute; full tuning that updates in backward; offload; and where none of these does, as few as do together.  Returns
 * how many there are; with 0, out[0] is the least of all that were tried, the config as it is among them. */
int plan_advise(PlanAdvice out[PLAN_MAX_ADVICE], const TrainConfig *cfg, const Dataset *train,
                const Dataset *eval, const PlanTarget *target, size_t bytes);
/* "batch.micro: 2, train.recompute: auto (51.2 GiB, recompute full)" */
void plan_advice_text(StrBuf *b, const PlanAdvice *a, const TrainConfig *cfg, int64_t n_layers);

/* What an opened device is to a plan. */
PlanTarget plan_target_of(const Device *d);
/* Chooses train.recompute for the session's opened device, where that is auto, and refuses a run that does not fit it, with
 * what would do, or its host. */
Status plan_for_device(Session *s, Problems *problems) MUST_CHECK;
