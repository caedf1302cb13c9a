/* SPDX-License-Identifier: MIT */
#include "model-file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "host.h"

/* The ioctl PAGEMAP_SCAN of Linux 6.7 (Documentation/admin-guide/mm/pagemap.rst), which older headers lack. */
struct pagemap_region {
        uint64_t begin, end, categories;
};

struct pagemap_scan {
        uint64_t size, flags, begin, end, ret_end, regions, n_regions, pages_max;
        uint64_t inverted, all_of, any_of, told;
};

#define SCAN _IOWR('f', 16, struct pagemap_scan)
#define SCAN_HUGE (UINT64_C(1) << 6)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* So many parts that stay in small pages one after another, and the rest is not tried: the file system may have no huge
 * ones, or another process have the file mapped. */
enum { ENLARGE_TRIES = 8 };

/* Whether 2 MiB are mapped as one page; negative errno: the kernel does not tell. */
static int is_huge(int pagemap, const uint8_t *data) {
        struct pagemap_region region;
        struct pagemap_scan scan = {
                .size = sizeof(scan),
                .begin = (uintptr_t) data,
                .end = (uintptr_t) data + HOST_HUGE_PAGE,
                .regions = (uintptr_t) &region,
                .n_regions = 1,
                .all_of = SCAN_HUGE,
                .told = SCAN_HUGE,
        };
        int n = ioctl(pagemap, SCAN, &scan);

        if (n < 0)
                return -errno;
        return n == 1 && region.begin == scan.begin && region.end == scan.end;
}

static int populate(const uint8_t *data) {
        return madvise((void *) data, HOST_HUGE_PAGE, MADV_POPULATE_READ) < 0 ? -errno : 0;
}

/* The page cache drops what is clean and mapped by nobody, so ours goes first; whoever reads there meanwhile waits for
 * the disk. A file that was just written is not clean yet. */
static int read_anew(const struct gguf_file *file, uint64_t offset) {
        const off_t at = (off_t) offset;

        (void) sync_file_range(file->fd, at, HOST_HUGE_PAGE,
                               SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
        (void) madvise((void *) (file->data + offset), HOST_HUGE_PAGE, MADV_DONTNEED);
        (void) posix_fadvise(file->fd, at, HOST_HUGE_PAGE, POSIX_FADV_DONTNEED);
        return populate(file->data + offset);
}

/* 1: they lie in one page now, 0: they did, negative errno. */
static int enlarge(int pagemap, const struct gguf_file *file, uint64_t offset) {
        const uint8_t *data = file->data + offset;
        int r;

        r = populate(data);
        if (!r)
                r = is_huge(pagemap, data);
        if (r)
                return r < 0 ? r : 0;
        /* Without the disk only on tmpfs, or with CONFIG_READ_ONLY_THP_FOR_FS. */
        if (madvise((void *) data, HOST_HUGE_PAGE, MADV_COLLAPSE) < 0)
                r = read_anew(file, offset);
        if (!r)
                r = is_huge(pagemap, data);
        return r == 0 ? -EOPNOTSUPP : r;
}

int model_file_enlarge_part(struct model_file *f, struct model_file_enlarging *e) {
        _cleanup_(closep) int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        const struct gguf_file *file;
        uint64_t offset = e->at;
        int r;

        if (pagemap < 0)
                return -errno;
        file = model_file_at(f, HOST_HUGE_PAGE, &offset);
        if (!file || e->in_vain == ENLARGE_TRIES)
                return 0;
        r = enlarge(pagemap, file, offset);
        if (r < 0 && r != -EOPNOTSUPP)
                return r;
        e->at += HOST_HUGE_PAGE;
        e->in_vain = r < 0 ? e->in_vain + 1 : 0;
        e->enlarged += r > 0;
        return 1;
}
