package gbatch

import (
	"slices"
	"testing"

	"gbatch/pkg/cli"
)

// TestVariables compares the list of known environment variables with the flags
// of all commands.
func TestVariables(t *testing.T) {
	var all []cli.Command
	for _, cmd := range Commands {
		all = append(all, cmd)
	}
	want, err := cli.Variables(all...)
	if err != nil {
		t.Fatal(err)
	}
	if got := cli.Known(); !slices.Equal(got, want) {
		t.Errorf("the variables in pkg/cli/variables.go are not those of the flags; they should be %q", want)
	}
}
