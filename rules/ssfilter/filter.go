package ssfilter

import (
	"net/netip"
	"strings"
)

// Filter is what ss takes on its command line: states, and an expression.
type Filter struct {
	States StateSet // as "state" and "exclude" say; 0 where neither stands
	Where  Expr     // nil: every socket
}

// Lookup finds the addresses of a host by its name.
type Lookup func(host string) ([]netip.Addr, error)

// ParseFilter reads a filter in the language of ss(8): any number of "state S",
// "exclude S" and "excl S", and then an expression as ParseExpr reads it. Like ss
// it counts "exclude" from all states where no "state" stands before it. Unlike ss
// it refuses states that leave none. An empty text is an empty Filter. Names of
// hosts are looked up with lookup, each where it stands; without lookup they are
// refused. Its error is a *SyntaxError.
func ParseFilter(text string, lookup Lookup) (Filter, error) {
	var f Filter
	p := &parser{text: text, lookup: lookup}
	err := p.begin()
	if err == nil {
		f.States, err = p.states()
	}
	if err == nil && p.tok != "" {
		f.Where, err = p.expr()
	}
	if err != nil {
		return Filter{}, err
	}
	return f, nil
}

// states = { ( "state" | "exclude" | "excl" ) STATE }.
func (p *parser) states() (StateSet, error) {
	var set StateSet
	var none error // what to say if no state is left
	for word := p.tok; word == "state" || word == "exclude" || word == "excl"; word = p.tok {
		p.next()
		name, err := p.value("the name of a state")
		if err != nil {
			return 0, err
		}
		if names := strings.Split(name, ","); len(names) > 1 {
			return 0, p.errorf("each state needs its own word: write %s %s %s %s", word, clip(names[0]), word, clip(names[1]))
		}
		named, err := ParseState(name)
		if err != nil {
			return 0, p.errorf("%v", err)
		}
		switch {
		case word == "state":
			set |= named
		case none == nil: // the first word of all
			set = AllStates &^ named
		default:
			set &^= named
		}
		none = p.errorf("%s %s leaves no state", word, clip(name))
		p.next()
	}
	if _, joins := junction(p.tok); joins && none != nil {
		return 0, p.errorf("states and the expression follow one another: leave out %s", quote(p.tok))
	}
	if set == 0 {
		return 0, none
	}
	return set, nil
}
