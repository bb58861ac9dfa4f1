/* Tasks: functions that threads of their own call one after the other, while whoever asked goes on.  (A loop that the caller
 * waits for and takes part in is a Pool's.) */
#pragma once

typedef struct Tasks Tasks;

/* n >= 1 threads; fewer where the machine gives no more, and none: tasks then run in tasks_add. */
Tasks *tasks_new(int n);
/* Waits for all. */
void tasks_free(Tasks *t);

/* fn(ud) some time from now, on any of the threads; tasks begin in the order in which they were added.  A task may add tasks. */
typedef void TaskFn(void *ud);
void tasks_add(Tasks *t, TaskFn *fn, void *ud);
/* Returns when all that were added are done.  Not from a task. */
void tasks_wait(Tasks *t);
