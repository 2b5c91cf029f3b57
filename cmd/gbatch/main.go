// Gbatch is all commands of the suite in one program. If it is called by the name of
// a command, through a link, it is that command. Otherwise its first argument is the
// name of a command. Without arguments it prints the manual of the suite, which lists
// the commands:
//
//	gbatch
//	gbatch chunks-status kb.duckdb
//
// It also writes the manual pages and the completions for bash, zsh and fish, into
// the folders that belong below /usr/share:
//
//	gbatch write-help /usr/local/share
package main

import (
	"maps"

	"gbatch"
	"gbatch/internal/help"
	"gbatch/pkg/cli"
)

func main() {
	commands := maps.Clone(gbatch.Commands)
	commands["write-help"] = &help.Write{Manual: gbatch.Manual, Commands: gbatch.Commands}
	cli.Suite("gbatch", gbatch.Manual, commands)
}
