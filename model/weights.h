/* One checkpoint tensor at a time between files and Params: what model_load_weights, model_save and the
 * adapter files share. */
#pragma once

#include "autograd/param.h"
#include "tensor/safetensors.h"
#include "tensor/upload.h"

/* Whether a file's tensor has the slice's shape and a dtype that converts. */
Status weight_check(const SafeTensor *t, const Param *p, int slice, Err *err) MUST_CHECK;
/* Its numbers as float; the caller frees.  pool may be NULL. */
float *weight_read_f32(const SafeTensor *t, Pool *pool);
/* What this rank keeps of a slice (all of it, where it is quantised: its unit is gathered then, by all ranks at the same place): its master
 * copy and, rounded to its dtype, its working copy; and what the file has it in.  Values are there after upload_close, on other ranks after
 * shards_updated. */
void weight_write(const SafeTensor *t, Device *d, Upload *u, Param *p, int slice);

/* Fills a slice with normal (0, scale) or uniform [-scale, scale) draws, each a function of seed, the slice's name and
 * the index. */
typedef enum WeightDraw { DRAW_NORMAL, DRAW_UNIFORM } WeightDraw;
void weight_draw(Device *d, Param *p, int slice, WeightDraw draw, double scale, uint64_t seed);

/* What safetensors_write needs: the tensors, and where their bytes come from. */
typedef struct WeightSource {
    Device *dev;
    const ParamSet *params;
    DType dtype;        /* in the file; DT_N: as ParamSlice.stored */
    const char *prefix; /* of the names in the file */
} WeightSource;
typedef struct WeightRef {
    const Param *param;
    int slice;
} WeightRef;
typedef struct WeightList {
    SafeTensor *items;
    WeightRef *refs; /* of which each is made */
    int n, cap;
} WeightList;
void weight_list_add(WeightList *l, const WeightSource *s, const Param *p, int slice);
void weight_list_clear(WeightList *l);
/* A SafeSource: ud is the WeightSource. */
Status weight_source(void *ud, const SafeTensor *t, FileOut *f, Err *err);
