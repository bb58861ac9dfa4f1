/* Backend "plan": a device that computes nothing.  Its kernels take the scratch that the planned device's would take,
 * its region is an address range without memory, copies from it give zeros; so a training step runs as it is and
 * the allocator's counts are those of the real run.  Work is counted by a Meter (kernels/meter.h). */
#pragma once

#include "kernels/kernels.h"

/* The device that is planned for: DeviceOpts.target, which must be given. */
typedef struct PlanTarget {
    bool cuda;            /* else the CPU */
    int n_sms;            /* cuda: some scratch depends on it */
    int ranks;            /* of the run; 0 is 1 */
    bool flash_attention; /* cuda: bf16 attention by cuDNN where it takes the shape */
} PlanTarget;
