/* PiSSA (Meng et al. 2024, arXiv 2404.02948; peft tuners/lora/layer.py, pissa_init): A and B begin as the principal singular vectors of
 * their matrix, which keeps the rest. */
#pragma once

#include "trainer/session.h"

/* For lora.init pissa, after the base's weights are there: every adapter's A = (S/scale)^1/2 V^T and B = U (S/scale)^1/2, and its
 * matrix less scale B A; what is quantised is encoded from the file's values less that (QPiSSA).  All ranks compute the same; E_FAILED
 * where they did not, since their processors differ. */
Status pissa_init(Session *s, Err *err) MUST_CHECK;
