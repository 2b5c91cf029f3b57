package cli

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// A Flag describes a flag or an argument of a command.
type Flag struct {
	Argument bool
	Name     string // without dashes
	Short    string // the other name, of one letter, or ""
	Value    string // the word that stands for the value; "" if the flag has no value
	Help     string
	Default  string
	Variable string   // the environment variable, or ""
	Words    []string // if the flag has a few values only: the values
	Files    string   // if the value is a file: the pattern of its name
	Many     bool     // the argument may be repeated
}

// A Usage describes how a command is called.
type Usage struct {
	Line        string // the arguments, without the name of the command
	Args, Flags []Flag
}

// Describe describes a command.
func Describe(name string, cmd Command) (u Usage, err error) {
	parser, err := (&grammar{Command: cmd}).parser(name)
	if err != nil {
		return u, err
	}
	u.Line = strings.TrimSpace(parser.Model.Summary())
	for _, a := range parser.Model.Positional {
		u.Args = append(u.Args, describe(a))
	}
	for _, f := range parser.Model.Flags {
		d := describe(f.Value)
		if f.Short != 0 {
			d.Short = string(f.Short)
		}
		if f.PlaceHolder != "" && d.Value != "" {
			d.Value = f.PlaceHolder
		}
		for _, v := range f.Envs {
			d.Variable = v
		}
		u.Flags = append(u.Flags, d)
	}
	return u, nil
}

func describe(v *kong.Value) Flag {
	f := Flag{Argument: v.Flag == nil, Name: v.Name, Help: v.Help, Default: v.Default, Many: v.IsCumulative()}
	switch v.Target.Interface().(type) {
	case Size:
		f.Value = "SIZE"
	case time.Duration:
		f.Value = "TIME"
	default:
		switch kind := v.Target.Kind(); {
		case v.IsBool():
		case v.Enum != "":
			f.Words = v.EnumSlice()
			f.Value = strings.Join(f.Words, "|")
		case kind >= reflect.Int && kind <= reflect.Float64:
			f.Value = "N"
		default:
			f.Value = strings.ToUpper(v.Name)
		}
	}
	switch {
	case v.Name == "db":
		f.Files = "*.duckdb"
	case f.Argument && v.Name == "file", !f.Argument && v.Flag.PlaceHolder == "FILE", v.Tag.Type == "path":
		f.Files = "*"
	}
	return f
}

// Example returns the first command line of a manual that has the command in it.
func Example(name, manual string) string {
	for line := range strings.Lines(Comment(manual)) {
		code, ok := strings.CutPrefix(line, "\t")
		if ok && !strings.HasPrefix(code, `{"`) && slices.Contains(strings.Fields(code), name) {
			return strings.TrimSpace(code)
		}
	}
	return ""
}

// printHelp prints the usage, an example, and then what kong prints.
func printHelp(manual string) kong.HelpPrinter {
	return func(options kong.HelpOptions, ctx *kong.Context) error {
		fmt.Fprintf(ctx.Stdout, "Usage: %s%s\n", ctx.Model.Name, ctx.Model.Summary())
		if example := Example(ctx.Model.Name, manual); example != "" {
			fmt.Fprintf(ctx.Stdout, "Example: %s\n", example)
		}
		options.NoAppSummary = true
		return kong.DefaultHelpPrinter(options, ctx)
	}
}

// Comment returns the text of the package comment of a Go source file.
func Comment(source string) string {
	var b strings.Builder
	for line := range strings.Lines(source) {
		text, ok := strings.CutPrefix(line, "//")
		if !ok {
			break
		}
		b.WriteString(strings.TrimPrefix(text, " "))
	}
	return strings.TrimSpace(b.String())
}
