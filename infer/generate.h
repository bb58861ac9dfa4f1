/* Text from a model: a key/value cache, several sequences at once, each at its own length and without padding.
 *
 * A step gives every live sequence its next tokens: one, or while its prompt is not yet read up to a budget.
 * A sequence leaves when it ends, and the next prompt takes its place.  What one says does not depend on the
 * others (up to the rounding of matrix products of another size): the draws are keyed by prompt and position. */
#pragma once

#include "data/tokenizer.h"
#include "infer/sampler.h"
#include "model/llama.h"

typedef struct GenerateOpts {
    SamplerOpts sampler;
    int64_t max_new_tokens;
    int64_t batch;           /* sequences at once */
    int64_t tokens_per_pass; /* prompt tokens read in one forward pass; 0: 2048 */
    int32_t eos_ids[16];     /* any of them ends a sequence */
    int n_eos;
    const char *const *stop; /* strings, none empty: the text ends before the first that appears */
    int n_stop;
    bool no_graph; /* infer/token_pass.h */
    bool
        always_ahead; /* greedy passes begin ahead also where nothing is won by it: how that is tested on a CPU */
    bool
        no_cache; /* every step reads everything again: the slow way that the cache is tested with */
} GenerateOpts;

/* Greedy, 256 tokens, 8 sequences at once, no end. */
GenerateOpts generate_defaults(void);

typedef struct GeneratePrompt {
    const int32_t *ids; /* BOS and all; n > 0 */
    int64_t n;
    uint64_t key; /* of its draws: the row's number */
    bool
        continues; /* the text goes on where the prompt's text ends, leading space and all; else it is a
                         * text of its own, as an answer is */
} GeneratePrompt;

typedef enum FinishReason { FINISH_EOS, FINISH_STOP, FINISH_LENGTH, FINISH_CONTEXT } FinishReason;
const char *finish_name(FinishReason r); /* "eos", "stop", "length", "context" */

typedef struct Generation {
    int32_t *ids; /* the new tokens, the ending one included */
    int64_t n;
    char *text; /* of the new tokens, without special ones and without the stop string */
    FinishReason finish;
} Generation;
void generation_clear(Generation *g);

/* Either may be NULL.  `text` tells text as it becomes certain (whole characters, nothing that may turn out to be a
 * stop string); `done` that out[i] is complete. */
typedef struct GenerateHooks {
    void (*text)(void *ud, int64_t i, const char *s, size_t n);
    void (*done)(void *ud, int64_t i);
    void *ud;
} GenerateHooks;

/* The longest sequence that the model can run: by its positions (of the file and of the table that llama_init
 * made) and its sliding window. */
int64_t generate_context(const Llama *m);

/* Fills out[0..n), which the caller clears (zeroed before; on failure, too).  t NULL: no text, and no stop
 * strings.  E_INPUT: a prompt that leaves no room for a token; E_FAILED: logits that are not finite. */
Status generate(Generation *out, Llama *m, const Tokenizer *t, const GeneratePrompt *prompts,
                int64_t n, const GenerateOpts *opts, const GenerateHooks *hooks,
                Err *err) MUST_CHECK;

/* The ids that end a text: eos_token_id (a number or a list) of DIR/generation_config.json where there is one, else
 * of config.json; and the tokenizer's own.  Adds to o->eos_ids. */
Status generate_load_eos(GenerateOpts *o, const char *dir, const LlamaConfig *cfg,
                         const Tokenizer *t, Err *err) MUST_CHECK;
void generate_add_eos(GenerateOpts *o, int id); /* once; -1 adds nothing */
