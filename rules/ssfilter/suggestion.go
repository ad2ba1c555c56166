package ssfilter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sockdog/sockdog/rules/internal/message"
)

// suggestion guesses what was meant by a token that cannot stand where it does.
func (p *parser) suggestion() string {
	if _, err := ParseState(p.tok); err == nil {
		return ", which is a state: " + p.stateHint("state "+clip(p.tok))
	}
	if reserved(p.tok) {
		return ""
	}
	meant := func(format string, args ...any) string {
		return ": did you mean " + fmt.Sprintf(format, args...) + "?"
	}
	if key, value, ok := strings.Cut(p.tok, ":"); ok && slices.Contains(predicates, key) {
		return meant("%s :%s", key, clip(value))
	}
	port := strings.TrimPrefix(p.tok, ":")
	if !isNumber(port) {
		// Names of services are not looked up for a guess.
	} else if _, err := ParsePort(port); err == nil {
		return meant("sport = %s or dport = %s", clip(port), clip(port))
	}
	if strings.ContainsAny(p.tok, ".:/") {
		// What is no address by itself may be one with a port or a length. Names are
		// not looked up for a guess.
		if _, err := (&parser{}).endpoint(Src, p.tok); err == nil {
			return meant("src %s or dst %s", clip(p.tok), clip(p.tok))
		}
	}
	nearest := message.Nearest(clip(p.tok), append([]string{"and", "or", "not", "state", "exclude"}, predicates...))
	if len(nearest) == 0 {
		return ""
	}
	return meant("%s", strings.Join(nearest, " or "))
}
