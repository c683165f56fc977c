package run

import (
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// The exit codes of ampoule run. Any other is the guest's own.
const (
	ExitPoweredOff = 0
	ExitBadInput   = 2
	// ExitCollision stands for an exit status of the guest that is one of
	// these codes.
	ExitCollision  = 119
	ExitPanic      = 120
	ExitHypervisor = 121
	ExitKilled     = 122
)

// Outcome is how a run ended.
type Outcome struct {
	Code int `json:"code"`
	// Text says it in words.
	Text string `json:"text"`
	// Problems are those of the input, for ExitBadInput, and warnings.
	Problems diag.List `json:"problems,omitempty"`
}

func badInput(problems diag.List) Outcome {
	return Outcome{Code: ExitBadInput, Text: "nothing was started", Problems: problems}
}

func failed(format string, args ...any) Outcome {
	return Outcome{Code: ExitHypervisor, Text: fmt.Sprintf(format, args...)}
}
