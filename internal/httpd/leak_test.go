//go:build linux

package httpd

import (
	"os"
	"testing"

	"sluice/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }
