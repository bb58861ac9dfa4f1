/* Meter: counts what the kernels of a device are asked to do: calls, floating-point operations, bytes, and on demand
 * their time.  It stands in front of the device's table, so it costs nothing where there is none.
 *
 * Conventions.  A product of (m,k) and (k,n) is 2 m n k.  Causal attention over documents of L tokens is
 * 2 L^2 H D forward, half of the full square, and twice that backward (what flash kernels compute again is not
 * counted).  Bytes are each operand once, read or written, twice where it is added to. */
#pragma once

#include "kernels/gpus.h"
#include "kernels/kernels.h"

enum { N_KERNELS = sizeof(Kernels) / sizeof(void (*)(void)) };

typedef struct MeterCount {
    int64_t calls;
    double flops, bytes;
    double seconds; /* measured, when the meter is timed */
    double floor; /* at the rates of the GPU that was given: the longer of arithmetic and traffic */
} MeterCount;

/* AGAIN: in backward, what forward did not keep. */
typedef enum MeterPass { METER_FORWARD, METER_AGAIN, METER_BACKWARD, METER_PASSES } MeterPass;

enum { METER_MAX_OPS = 128 };

typedef struct MeterOp { /* a pass of an op in a module */
    const char *module, *name;
    MeterPass pass;
    MeterCount count;
} MeterOp;

typedef struct Meter {
    const Kernels *inner;
    const GpuSpec *gpu; /* of `floor`; NULL: 0 */
    bool timed;         /* waits for each kernel */
    int repeats; /* times that a kernel runs for one call, so that waiting weighs little: the results
                         * are then worth nothing; 1 */
    MeterCount kernels[N_KERNELS];
    MeterOp ops[METER_MAX_OPS];
    int n_ops;
    MeterOp *last;
    MeterCount pending; /* kernels whose op has not said its name yet */
    double began;
} Meter;

/* From now on d's kernels are counted by *m, which must outlive meter_detach. */
void meter_attach(Meter *m, Device *d, const GpuSpec *gpu, bool timed);
void meter_detach(Meter *m, Device *d);
void meter_reset(Meter *m);

/* The kernels since the last call belong to this op of this module (NULL: none); the names live as long as the meter.
 * What only an optimizer asks for is the module "optimizer"'s whenever it runs. */
void meter_op(Meter *m, const char *module, const char *name, MeterPass pass);
/* Those since then belong to the same op still: it did more after it had said its name. */
void meter_rest(Meter *m);

typedef enum MeterClass { METER_PRODUCTS, METER_ATTENTION, METER_OTHER, METER_CLASSES } MeterClass;
MeterClass meter_class(int kernel);
/* The sum of a class, or of all kernels (METER_CLASSES). */
MeterCount meter_sum(const Meter *m, MeterClass c);
void meter_add(MeterCount *to, const MeterCount *c);
