/* What `train` and `check` tell of a session before anything is computed; nothing below LOG_INFO. */
#pragma once

#include "trainer/session.h"

/* Counts of the data sets; at LOG_VERBOSE the first row token by token. */
void print_data(const Session *s, const TrainConfig *c);
/* Parameters, trained ones, memory, planned memory. */
void print_model(const Session *s);
/* After the run: its peak beside the planned one, what the driver counts beside what was reserved. */
void print_memory(const Session *s);
