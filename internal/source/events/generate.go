package events

//go:generate go tool bpf2go -target bpfel -no-global-types -cflags "-O2 -Wall -Werror" kernel bpf/events.bpf.c
