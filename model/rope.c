/* The rotary table: inverse frequencies as transformers computes them in float32 (modeling_rope_utils.py), and
 * their cosines and sines by position. */
#include "model/llama.h"

#include "base/str.h"

#include <math.h>
#include <stdlib.h>

/* Every step is rounded to float because torch's is: theta^(2i/D) amplifies a difference in the last bit by the
 * position. */
void llama_rope_frequencies(const LlamaConfig *cfg, float *inv_freq)
{
    const double two_pi = 6.283185307179586;
    float factor = (float)cfg->rope_factor;
    for (int64_t i = 0; i < cfg->head_dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)cfg->head_dim;
        float f = 1.0f / (float)pow((float)cfg->rope_theta, exponent);
        if (cfg->rope_type == ROPE_LINEAR) {
            f /= factor;
        } else if (cfg->rope_type == ROPE_LLAMA3) {
            float original = (float)cfg->rope_original_max;
            float low = (float)cfg->rope_low_freq, high = (float)cfg->rope_high_freq;
            float wavelength = (float)two_pi / f;
            if (wavelength > original / low) {
                f /= factor;
            } else if (wavelength >= original / high) {
                float smooth = (original / wavelength - low) / (high - low);
                f = (1.0f - smooth) * f / factor + smooth * f;
            }
        }
        inv_freq[i] = f;
    }
}

void llama_rope_table(const LlamaConfig *cfg, float *table, int64_t n_positions)
{
    int64_t half = cfg->head_dim / 2;
    float *inv_freq = xmalloc((size_t)half * sizeof *inv_freq);
    llama_rope_frequencies(cfg, inv_freq);
    for (int64_t p = 0; p < n_positions; p++) {
        float *row = table + p * cfg->head_dim;
        for (int64_t i = 0; i < half; i++) {
            float angle = (float)p * inv_freq[i]; /* rounded to float, as torch's */
            row[i] = (float)cos(angle);
            row[half + i] = (float)sin(angle);
        }
    }
    free(inv_freq);
}
