package bufreg

import "golang.org/x/sys/unix"

// mapArena maps memory with 4 KiB pages, or asks for huge ones: see [NewHuge].
func mapArena(size int, huge bool) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err == nil {
		advice := unix.MADV_NOHUGEPAGE
		if huge {
			advice = unix.MADV_HUGEPAGE
		}
		_ = unix.Madvise(mem, advice) // EINVAL where the kernel has no huge pages
	}
	return mem, err
}

func unmapArena(mem []byte) error { return unix.Munmap(mem) }
