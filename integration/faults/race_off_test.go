//go:build linux && !race

package faults

const race = false
