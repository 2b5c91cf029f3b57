package main

import (
	"slices"
	"strings"
	"testing"

	"gbatch/pkg/emulator"
)

// Each action that the emulator knows is tried at each call that the line makes,
// so also one that it learns later.
func TestEveryFault(t *testing.T) {
	jobs := slices.Concat(jobCases, vertexJobCases)
	cases := map[string][]faultCase{"job": jobs, "results": jobs}
	for _, c := range slices.Concat(calls, vertexCalls) {
		cases[c.op] = append(cases[c.op], faultCases(c)...)
	}
	for op, list := range cases {
		known := emulator.Actions(op)
		if len(known) == 0 {
			t.Errorf("the emulator has no actions for %s", op)
		}
		for _, action := range known {
			if action == "hold" { // what happens at a hold is parts b and d
				continue
			}
			tried := slices.ContainsFunc(list, func(c faultCase) bool {
				return slices.ContainsFunc(c.specs, func(spec string) bool { return strings.HasPrefix(spec, op+" ") && hasAction(spec, action) })
			})
			if !tried {
				t.Errorf("no fault of %s tries %s", op, action)
			}
		}
	}
}

// hasAction reports whether a fault has an action. A header alone is a set.
func hasAction(spec, action string) bool {
	return slices.ContainsFunc(strings.Fields(spec), func(word string) bool {
		name, _, _ := strings.Cut(word, "=")
		return name == action || action == "set" && name == "header"
	})
}
