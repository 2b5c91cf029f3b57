package help

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gbatch/pkg/cli"
)

// quote makes one word of s, for every shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// first returns the first sentence of a text.
func first(s string) string {
	s, _, _ = strings.Cut(s, ". ")
	return strings.TrimSuffix(s, ".")
}

// names returns the flag as it is written on a command line.
func names(f cli.Flag) []string {
	if f.Short != "" {
		return []string{"--" + f.Name, "-" + f.Short}
	}
	return []string{"--" + f.Name}
}

// bash returns the completion for bash 4 and later. It needs no other file.
func (s *suite) bash() string {
	var all, cases strings.Builder
	for _, c := range s.commands {
		fmt.Fprintf(&all, " %s", c.name)
		var flags, free []string
		for _, f := range c.usage.Flags {
			flags = append(flags, names(f)...)
			option := fmt.Sprintf("%s:--%s", c.name, f.Name)
			switch {
			case f.Words != nil:
				fmt.Fprintf(&cases, "\t%s) words='%s' ;;\n", option, strings.Join(f.Words, " "))
			case f.Files != "":
				fmt.Fprintf(&cases, "\t%s) files='%s' ;;\n", option, f.Files)
			case f.Value != "":
				free = append(free, option)
			}
		}
		if free != nil {
			fmt.Fprintf(&cases, "\t%s) ;;\n", strings.Join(free, " | "))
		}
		files := ""
		for _, a := range c.usage.Args {
			files = cmp.Or(a.Files, files) // the files after a database are any files
		}
		fmt.Fprintf(&cases, "\t%s:*) words='%s' files='%s' ;;\n", c.name, strings.Join(flags, " "), files)
	}
	return fmt.Sprintf(`# Completion of gbatch and its commands for bash. gbatch write-help wrote this file.
_gbatch() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[0]##*/} words= files=
	[[ $prev != = ]] || prev=${COMP_WORDS[COMP_CWORD-2]}
	[[ $cur != = ]] || cur=
	if [[ $command == gbatch && $COMP_CWORD -gt 1 ]]; then
		command=${COMP_WORDS[1]}
	fi
	case $command:$prev in
	gbatch:*) words='%s --help --version' ;;
%s	esac
	[[ $cur == -* || -z $files ]] || words=
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
	if [[ -n $files && $cur != -* ]]; then
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -d -- "$cur"; compgen -f -X "!$files" -- "$cur")
	fi
}
complete -F _gbatch gbatch%s
`, strings.TrimSpace(all.String()), cases.String(), all.String())
}

// zsh returns the completion for zsh.
func (s *suite) zsh() string {
	var all, summaries, cases strings.Builder
	text := strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, ":", `\:`)
	action := func(f cli.Flag) string {
		switch {
		case f.Words != nil:
			return fmt.Sprintf(":%s:(%s)", f.Name, strings.Join(f.Words, " "))
		case f.Files != "":
			return fmt.Sprintf(":%s:_files -g \"%s\"", f.Name, f.Files)
		case f.Value != "":
			return fmt.Sprintf(":%s:", f.Name)
		}
		return ""
	}
	for _, c := range s.commands {
		fmt.Fprintf(&all, " %s", c.name)
		fmt.Fprintf(&summaries, "\t\t\t%s\n", quote(c.name+":"+text.Replace(c.summary)))
		fmt.Fprintf(&cases, "\t(%s)\n\t\t_arguments -s", c.name)
		for _, f := range c.usage.Flags {
			for _, name := range names(f) {
				if f.Value != "" {
					name += "="
				}
				fmt.Fprintf(&cases, " \\\n\t\t\t%s", quote(name+"["+text.Replace(first(f.Help))+"]"+action(f)))
			}
		}
		for _, a := range c.usage.Args {
			place := ":"
			if a.Many {
				place = "*:"
			}
			fmt.Fprintf(&cases, " \\\n\t\t\t%s", quote(strings.TrimSuffix(place, ":")+action(a)))
		}
		cases.WriteString("\n\t\t;;\n")
	}
	return fmt.Sprintf(`#compdef gbatch%s
# Completion of gbatch and its commands for zsh. gbatch write-help wrote this file.
local command=$service
if [[ $command == gbatch ]]; then
	if (( CURRENT == 2 )); then
		local -a commands=(
%s		)
		_describe command commands
		return
	fi
	shift words
	(( CURRENT-- ))
	command=$words[1]
fi
case $command in
%sesac
`, all.String(), summaries.String(), cases.String())
}

// fish returns the completion of a command for fish. With a condition it is that of
// gbatch, after the name of the command.
func (c command) fish(name, condition string) string {
	var b strings.Builder
	line := func(format string, args ...any) {
		fmt.Fprintf(&b, "complete -c %s%s %s\n", name, condition, fmt.Sprintf(format, args...))
	}
	if slices.ContainsFunc(c.usage.Args, func(a cli.Flag) bool { return a.Files == "*" }) {
		line("-F")
	} else {
		line("-f")
	}
	value := func(f cli.Flag) string {
		switch {
		case f.Words != nil:
			return " -x -a " + quote(strings.Join(f.Words, " "))
		case f.Files == "*":
			return " -r -F"
		case f.Files != "":
			// fish's own function for this offers all other files too.
			return " -x -a " + quote(`(complete -C "'' "(commandline -ct) | string match -r ".*(?:/|`+strings.ReplaceAll(strings.TrimPrefix(f.Files, "*"), ".", `\.`)+`)\$")`)
		case f.Value != "":
			return " -x"
		}
		return ""
	}
	for _, f := range c.usage.Flags {
		short := ""
		if f.Short != "" {
			short = " -s " + f.Short
		}
		line("-l %s%s%s -d %s", f.Name, short, value(f), quote(first(f.Help)))
	}
	for _, a := range c.usage.Args {
		if a.Files != "" && a.Files != "*" {
			line("%s", strings.TrimSpace(value(a)))
		}
	}
	return b.String()
}

// fishSuite returns the completion of gbatch for fish.
func (s *suite) fishSuite() string {
	var b strings.Builder
	b.WriteString("# Completion of gbatch for fish. gbatch write-help wrote this file.\ncomplete -c gbatch -f\n")
	for _, c := range s.commands {
		fmt.Fprintf(&b, "complete -c gbatch -n __fish_use_subcommand -a %s -d %s\n", c.name, quote(c.summary))
	}
	for _, c := range s.commands {
		b.WriteString(c.fish("gbatch", " -n '__fish_seen_subcommand_from "+c.name+"'"))
	}
	return b.String()
}
