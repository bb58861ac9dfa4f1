/* What the two files of the plan backend share. */
#pragma once

#include "kernels/plan/plan.h"

extern const Kernels plan_kernels;
extern const Backend plan_backend;

static inline const PlanTarget *plan_target(const Device *d)
{
    return d->impl;
}
