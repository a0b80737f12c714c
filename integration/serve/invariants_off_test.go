//go:build !invariants

package serve_test

const invariants = false
