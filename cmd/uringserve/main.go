// Command uringserve serves files over HTTP/1.1 with io_uring zero-copy sends.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run(os.Args[1:])) }

// usageError is a mistake in the command line: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// commandStatus is the exit status of a command that was run, and said itself what went wrong.
type commandStatus int

func (s commandStatus) Error() string { return fmt.Sprintf("the command's exit status is %d", int(s)) }

// run executes the command line and returns the exit status: 0, 1 for a failure, 2 for a
// mistake in the command line, or that of a command that was run. An error is one line.
func run(args []string) int {
	root := &cobra.Command{
		Use:           "uringserve",
		Short:         "Serve files with io_uring zero-copy sends",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(serveCommand(), benchCommand())
	markUsageErrors(root)
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err == nil {
		return 0
	}
	if status, ok := err.(commandStatus); ok {
		return int(status)
	}
	fmt.Fprintf(os.Stderr, "uringserve: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		fmt.Fprintf(os.Stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
		return 2
	}
	return 1
}

// markUsageErrors has wrong arguments count as mistakes in the command line.
func markUsageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		markUsageErrors(sub)
	}
}
