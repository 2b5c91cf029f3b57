package render

import (
	"strings"

	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// SpaceFlags are the flags for the space of chunks without a header. If a flag is
// empty, the header decides.
type SpaceFlags struct {
	Model    string `help:"Model of chunks without a header (default ${model})." placeholder:"NAME"`
	Dim      int    `help:"Values per vector, 1 to ${max_dim}, of chunks without a header (default ${dim})." placeholder:"N"`
	TaskType string `help:"Task type of chunks without a header (default ${task_type}; TASK_TYPE_UNSPECIFIED for no task type)." placeholder:"TYPE"`

	variables map[string]bool // the flags that have their value from an environment variable
}

// FromVariable says that a flag has its value from an environment variable. A
// variable is meant for several commands, so a header that differs takes
// precedence over it. If a flag on the command line differs from a header, that
// is an error.
func (f *SpaceFlags) FromVariable(flag string) {
	if f.variables == nil {
		f.variables = make(map[string]bool)
	}
	f.variables[flag] = true
}

func (f *SpaceFlags) flags() model.Space {
	return model.Space{Model: model.Bare(f.Model), Dim: f.Dim, TaskType: f.TaskType}
}

// Plain returns the space of chunks without a header.
func (f *SpaceFlags) Plain() (model.Space, error) {
	s, err := f.flags().Or(model.Space{Model: model.Default, Dim: model.DefaultDim, TaskType: model.DefaultTaskType}).Checked()
	if err != nil {
		return s, exit.With(exit.Usage, err)
	}
	return s, model.CheckTyped(s.Model)
}

// Of returns the space of a header. what names what the header is about. A header
// without a model or a dim has those of the flags; a header without a task type
// has no task type. The error has an exit code.
func (f *SpaceFlags) Of(header model.Space, what string) (model.Space, error) {
	if flag := f.conflict(header); flag != "" {
		return header, exit.Errorf(exit.Usage, "--%s differs from the header of %s: leave the flag out", flag, what)
	}
	full := header.Or(f.flags()).Or(model.Space{Model: model.Default, Dim: model.DefaultDim})
	full.TaskType = header.TaskType
	full, err := full.Checked()
	if err != nil {
		err = exit.Errorf(exit.Malformed, "%s: %w", what, err)
	}
	return full, err
}

// Asked returns the space of a space record. The same documents can be asked with
// several task types, so --task-type on the command line takes precedence.
func (f *SpaceFlags) Asked(said model.Space) (model.Space, error) {
	if f.TaskType != "" && !f.variables["task-type"] {
		said.TaskType = f.TaskType
	}
	return f.Of(said, "the space")
}

// conflict returns the first flag that was given and differs from the header, or
// "".
func (f *SpaceFlags) conflict(header model.Space) (flag string) {
	flags := f.flags()
	none := func(taskType string) string { return strings.TrimPrefix(taskType, model.Unspecified) }
	switch {
	case flags.Model != "" && header.Model != "" && flags.Model != header.Model && !f.variables["model"]:
		return "model"
	case flags.Dim != 0 && header.Dim != 0 && flags.Dim != header.Dim && !f.variables["dim"]:
		return "dim"
	case flags.TaskType != "" && none(flags.TaskType) != none(header.TaskType) && !f.variables["task-type"]:
		return "task-type"
	}
	return ""
}
