package cli

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gbatch/pkg/exit"
	"gbatch/pkg/guess"
)

// Suite runs one of several commands, and ends the process as Main does. It is the
// command by whose name the process was called, or else the command that the first
// argument names. Without arguments, and with --help, it prints the manual of name,
// the suite. manual returns the source of the file with a manual.
func Suite(name string, manual func(name string) string, commands map[string]Command) {
	os.Exit(suite(os.Args, name, manual, commands))
}

func suite(args []string, name string, manual func(string) string, commands map[string]Command) int {
	args[0] = filepath.Base(args[0])
	if commands[args[0]] == nil {
		args = args[1:]
	}
	switch {
	case len(args) == 0 || args[0] == "--help" || args[0] == "-h":
		fmt.Printf("Usage: %s COMMAND [ARGUMENT]…\n\n%s\n", name, strings.ReplaceAll(strings.TrimPrefix(Comment(manual(name)), "Package "), "\t", "    "))
		return exit.OK
	case args[0] == "--version":
		fmt.Println(name, versions(slices.Collect(maps.Values(commands))...))
		return exit.OK
	case commands[args[0]] == nil:
		meant := ""
		if near := guess.Closest(args[0], slices.Sorted(maps.Keys(commands)), 0); near != "" {
			meant = ", did you mean " + near + "?"
		}
		fmt.Fprintf(os.Stderr, "%s: error: unknown command %q%s (see %s --help)\n", name, args[0], meant, name)
		return exit.Usage
	}
	return run(args[0], args[1:], manual(args[0]), commands[args[0]])
}
