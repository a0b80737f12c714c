//go:build !linux

package main

import "log"

func main() { log.Fatal("peers: io_uring and epoll are measured: run it on Linux") }
