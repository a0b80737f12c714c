//go:build !linux

package bufreg

import "sluice/ring"

func mapArena(int, bool) ([]byte, error) { return nil, ring.ErrUnsupported }

func unmapArena([]byte) error { return nil }
