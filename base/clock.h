/* Time. */
#pragma once

double seconds_monotonic(void); /* of a clock that only goes forward */
