//go:build !linux

package httpd

func descriptorLimit() int { return 1024 }
