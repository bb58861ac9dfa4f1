/* What a run works on, opened from a config: tokenizer and data on the host; device, model, adapters and
 * the flat arrays of what is trained.  `lorac check` opens a session and stops there. */
#pragma once

#include "base/log.h"
#include "dist/shard.h"
#include "kernels/plan/plan.h"
#include "model/weights.h"
#include "trainer/config.h"

typedef struct Session {
    TrainConfig *cfg;
    Log *log;
    Tokenizer *tokenizer;  /* NULL: the rows are tokens already */
    Dataset *train, *eval; /* eval NULL: none */
    uint64_t data_hash;    /* of all training tokens and labels */
    uint64_t eval_hash;    /* of all validation tokens and labels; 0: none */
    LlamaConfig shape;     /* the model's config.json or preset */
    Comm *hosts;           /* the run's ranks, borrowed; NULL: this one alone */
    Comm alone;
    Device dev;
    HostHome home;        /* with parallel.offload */
    size_t planned_bytes; /* of dev's region, by the plan of the run */
    size_t planned_peak;  /* bytes live at the peak */
    HostNeed planned_host;
    Llama model;
    LoraSet lora;
    Comm comm;        /* of tensors */
    Comm run, across; /* its parts, with parallel.shard_group */
    ShardSet shards;
    Trace *trace;
    struct Meter *profile; /* or NULL: filled by one step, the third of the process or its last */
    bool has_model, has_lora;
} Session;

/* Each of these is for all ranks together: what goes wrong on one is told on all, by that rank's name.
 *
 * Tokenizer and data sets.  All errors go to `problems`.  *s must be zero before, but for hosts and profile, and must not
 * move. */
Status session_open_data(Session *s, TrainConfig *cfg, Log *log, Problems *problems) MUST_CHECK;
/* Device, model, adapters, initial weights.  Where the data are open, that model and data fit together. */
Status session_open_model(Session *s, TrainConfig *cfg, Log *log, Problems *problems) MUST_CHECK;
/* The same on a plan device, for a run that will be on `target`: parameters without values; model files are read for the
 * shape alone. */
Status session_open_plan(Session *s, TrainConfig *cfg, const PlanTarget *target, Log *log,
                         Problems *problems) MUST_CHECK;
void session_close(Session *s);

/* The rank that writes files and talks to the user. */
bool session_leads(const Session *s);
/* Where nobody set hosts: this rank alone. */
void session_alone(Session *s);
/* E_INPUT where program, config and training data are not the same on every rank. */
Status session_compare(Session *s, Problems *problems) MUST_CHECK;
/* One outcome for all ranks (comm_agree); what another rank had to say is added to problems. */
Status session_agree(Session *s, Status status, Problems *problems) MUST_CHECK;

/* The weights as others read them, an adapter in PEFT's layout or a model folder: which tensors, and where in files they lie.  All
 * of them are trained. */
void session_list_weights(const Session *s, WeightList *out);
Status session_lay_out_weights(const Session *s, const WeightList *list, SafeLayout *out,
                               Err *err) MUST_CHECK;
/* All files beside them into an existing folder: the base's config, tokenizer and generation settings, or the adapter's config.  Reads
 * what no step changes. */
Status session_write_files(const Session *s, const char *dir, Err *err) MUST_CHECK;
