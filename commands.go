package gbatch

import (
	"embed"

	"gbatch/pkg/board"
	"gbatch/pkg/cli"
	"gbatch/pkg/emulator"
	"gbatch/pkg/gbatch"
	"gbatch/pkg/render"
	"gbatch/pkg/split"
	"gbatch/pkg/store"
)

// Commands are the commands of the suite.
var Commands = map[string]cli.Command{
	"text-to-chunks":  new(split.Files),
	"chunks-add":      new(store.Add),
	"chunks-pending":  new(store.Pending),
	"to-jsonl":        new(render.ToJSONL),
	"gbatch-submit":   new(gbatch.Submit),
	"gbatch-wait":     new(gbatch.Wait),
	"gbatch-fetch":    new(gbatch.Fetch),
	"gbatch-list":     new(gbatch.List),
	"gbatch-cancel":   new(gbatch.Cancel),
	"gbatch-embed":    new(gbatch.Embed),
	"vectors-apply":   new(store.Apply),
	"jobs-pending":    new(store.Jobs),
	"chunks-status":   new(board.Status),
	"chunks-near":     new(store.Near),
	"chunks-release":  new(store.Release),
	"vectors-check":   new(store.Check),
	"gemini-emulator": new(emulator.Emulator),
}

//go:embed doc.go cmd/*/main.go
var sources embed.FS

// Manual returns the source file whose package comment is the manual of a
// command, or of the suite if name is "gbatch".
func Manual(name string) string {
	path := "cmd/" + name + "/main.go"
	if name == "gbatch" {
		path = "doc.go"
	}
	source, _ := sources.ReadFile(path) // a command without a manual has an empty one
	return string(source)
}
