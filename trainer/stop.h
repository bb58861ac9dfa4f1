/* Requests to stop that come from outside: a signal, or the end of a Slurm job's time.  A run answers them at the next
 * step boundary with a checkpoint. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* From now on SIGTERM and SIGUSR1 are requests instead of ends: to be called first of all. */
void stop_listen(void);
/* So is the time so many seconds before SLURM_JOB_END_TIME (Unix seconds), where it is set; 0: never. */
void stop_listen_clock(int64_t before_end);
/* SIGINT too; a second one ends the process at once. */
void stop_listen_terminal(void);
/* What asked, as a phrase ("SIGUSR1", "the near end of the Slurm job"); NULL: nothing did.  Cheap. */
const char *stop_requested(void);
