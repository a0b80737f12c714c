package bufreg

import "golang.org/x/sys/unix"

// mapArena maps memory with 4 KiB pages. With huge pages each piece of a zero-copy send is
// charged to the socket by its offset inside the huge page, which stalls deep queues.
func mapArena(size int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err == nil {
		_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // EINVAL where the kernel has no huge pages
	}
	return mem, err
}

func unmapArena(mem []byte) error { return unix.Munmap(mem) }
