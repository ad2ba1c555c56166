package rules

import "github.com/sockdog/sockdog/rules/internal/message"

type phrase = message.Phrase

const (
	maxShown = message.MaxValue
	maxWords = message.MaxBytes
)

var (
	errorf  = message.Errorf
	cutTo   = message.Cut
	list    = message.List
	unknown = message.Unknown
	nearest = message.Nearest
)
