/* SPDX-License-Identifier: MIT */
#pragma once

/* Files mapped for reading whose pages may fail us: somebody cuts the file short, or its disk breaks. Touching what is
 * gone raises SIGBUS, which ends a process. With mapped_survive() it does not: from there on the mapping shows zeros,
 * and is marked, so that whoever computed with it throws the result away. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

struct mapped {
        const uint8_t *data; /* NULL: nothing is mapped */
        uint64_t size;
        _Atomic bool lost; /* part of it shows zeros instead of the file; never goes away again */
        struct list link;  /* of all that there are */
};

/* Maps the first `size` bytes of a file, read-only and aligned so that its huge pages in the page cache can be mapped
 * as such. The object stays where it is until mapped_deinit(). Any thread. Negative errno. */
int mapped_init(struct mapped *mapped, int fd, uint64_t size);
/* Takes one of zeros. */
void mapped_deinit(struct mapped *mapped);

/* Takes SIGBUS of the process, to be called once; a thread that touches mapped files must not block it. A SIGBUS that
 * is about something else ends the process as ever. Negative errno. */
int mapped_survive(void);
