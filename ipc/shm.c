/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/util.h"
#include "shm.h"

/* Since Linux 6.3; before that memfd_create() answers EINVAL. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

enum { SHM_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

int wire_layout_init(struct wire_layout *ret, uint64_t entries, uint64_t arena_size, struct reason *reason) {
        struct wire_layout layout = {};

        if (!is_power_of_two(entries) || entries < WIRE_ENTRIES_MIN || entries > WIRE_ENTRIES_MAX)
                return reason_return(reason, SHM_E_REFUSED,
                                     "%" PRIu64 " ring entries; must be a power of two from %d to %d",
                                     entries, WIRE_ENTRIES_MIN, WIRE_ENTRIES_MAX);
        if (arena_size == 0 || arena_size > LAYOUT_ARENA_MAX)
                return reason_return(reason, SHM_E_REFUSED,
                                     "arena of %" PRIu64 " bytes; must be from 1 to %d", arena_size,
                                     LAYOUT_ARENA_MAX);

        layout.entries = (uint32_t) entries;
        layout.submissions = WIRE_PAGE;
        layout.completions = WIRE_PAGE;
        if (!align_u64(arena_size, WIRE_PAGE, &layout.arena_size) ||
            !align_u64(layout.submissions + entries * WIRE_SLOT, WIRE_PAGE, &layout.arena) ||
            !add_u64(layout.arena, layout.arena_size, &layout.client_size) ||
            !align_u64(layout.completions + entries * WIRE_SLOT, WIRE_PAGE, &layout.daemon_size))
                return -EOVERFLOW;
        *ret = layout;
        return 0;
}

int shm_new(int *ret_fd, const char *name, uint64_t size) {
        _cleanup_(closep) int fd = -1;

        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
        if (fd < 0 && errno == EINVAL)
                fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return -errno;
        /* Born 0666 or 0777: whoever holds any descriptor of it could open it writable through /proc. */
        if (fchmod(fd, 0600) < 0)
                return -errno;
        if (size > INT64_MAX)
                return -EFBIG;
        if (ftruncate(fd, (off_t) size) < 0 || fcntl(fd, F_ADD_SEALS, SHM_SEALS) < 0)
                return -errno;
        *ret_fd = steal_fd(&fd);
        return 0;
}

int shm_reopen_read_only(int *ret_fd, int fd) {
        char path[sizeof("/proc/self/fd/-2147483648")];
        int r;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        r = open(path, O_RDONLY | O_CLOEXEC);
        if (r < 0)
                return -errno;
        *ret_fd = r;
        return 0;
}

int shm_check(int fd, uint64_t size, struct reason *reason) {
        struct stat st;
        int seals;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return reason_return(reason, SHM_E_REFUSED, "received a descriptor that is not a memfd");
        seals = fcntl(fd, F_GET_SEALS);
        if (seals < 0)
                return reason_return(reason, SHM_E_REFUSED, "received a file that cannot be sealed");
        if ((seals & SHM_SEALS) != SHM_SEALS)
                return reason_return(reason, SHM_E_REFUSED,
                                     "received shared memory that is not sealed against resizing");
        if (st.st_size < 0 || (uint64_t) st.st_size != size)
                return reason_return(reason, SHM_E_REFUSED,
                                     "received %" PRId64 " bytes of shared memory instead of %" PRIu64,
                                     (int64_t) st.st_size, size);
        return 0;
}

int shm_map(struct shm_mapping *ret, int fd, uint64_t size, bool writable) {
        void *address;

        if (size == 0 || size > SIZE_MAX)
                return -EINVAL;
        address = mmap(NULL, size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
        if (address == MAP_FAILED)
                return -errno;
        *ret = (struct shm_mapping) { .address = address, .size = size };
        return 0;
}

void shm_unmap(struct shm_mapping *mapping) {
        if (mapping->address)
                munmap(mapping->address, mapping->size);
        *mapping = SHM_MAPPING_NULL;
}
