package main

import "github.com/spf13/cobra"

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what sending costs on this machine",
	}
	cmd.AddCommand(benchWireCommand())
	return cmd
}
