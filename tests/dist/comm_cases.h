/* What every kind of Comm must do: the same cases, whoever carries the data. */
#pragma once

#include "dist/comm.h"

/* Runs all cases on an open device; returns how many failed, each told on stderr. */
int comm_cases(Comm *c, Device *d);
