# SPDX-License-Identifier: MIT
# Completion of moectl(1) for bash. Options are those that `moectl VERB --help` prints: they cannot be out of date.

_moectl_options() {
        moectl ${1:+"$1"} --help 2>/dev/null | grep -oE '^ +(-[a-z], )?--[a-z-]+' | grep -oE -- '--[a-z-]+'
}

_moectl_models() {
        moectl models 2>/dev/null | awk 'NR > 1 { print $1 }'
}

_moectl_principals() {
        echo default
        getent passwd | awk -F: '{ print "uid:" $1 }'
        getent group | awk -F: '{ print "gid:" $1 }'
        systemctl list-units --no-legend --plain --type=service 2>/dev/null | awk '{ print "unit:" $1 }'
}

# Words with a colon in them are several to bash: take away what is there already.
_moectl_reply() {
        local colon="${COMP_WORDBREAKS//[^:]/}" i
        mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2")
        if [[ $colon && $2 == *:* ]]; then
                for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]#"${2%"${2##*:}"}"}; done
        fi
}

_moectl() {
        local line=${COMP_LINE:0:COMP_POINT} word previous verb="" w
        local budget_keys="ExpertsMax= ExpertsMin= Weight= Class= LatencyTarget= ActivationRate= ActivationBurst= OnEmpty=
                Adaptive= KvMax= QueueMax= SessionMax="
        local verbs="run chat score models load unload ps cancel stats top budget explain tokenize bench inspect calibrate convert doctor reload"
        word=${line##*[[:space:]]}
        previous=${COMP_WORDS[COMP_CWORD - 1]}
        COMPREPLY=()

        for w in "${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
                if [[ " $verbs " == *" $w "* ]]; then verb=$w; break; fi
        done
        case $previous in
        -m | --model) _moectl_reply "$(_moectl_models)" "$word"; return ;;
        -t | --type) [[ $verb != convert ]] || { _moectl_reply "F32 F16 BF16 Q8_0" "$word"; return; } ;;
        --socket | --text | -o | --out) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        esac
        if [[ $word == -* ]]; then
                _moectl_reply "$(_moectl_options "$verb")" "$word"
        elif [[ ! $verb ]]; then
                _moectl_reply "$verbs" "$word"
        elif [[ $verb == load ]]; then
                mapfile -t COMPREPLY < <(compgen -f -- "${word#*=}")
                compopt -o filenames
        elif [[ $verb == unload ]]; then
                _moectl_reply "$(_moectl_models)" "$word"
        elif [[ $verb == inspect || $verb == calibrate || $verb == convert || $verb == doctor ]]; then
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -f -- "$word"; [[ $verb != doctor ]] || compgen -W "$(_moectl_models)" -- "$word")
        elif [[ $verb == budget ]]; then
                case $line in
                *budget*\ set\ *\ *) mapfile -t COMPREPLY < <(compgen -W "$budget_keys" -- "$word"); compopt -o nospace ;;
                *budget*\ set\ * | *budget*\ reset\ * | *budget*\ show\ *) _moectl_reply "$(_moectl_principals)" "$word" ;;
                *) _moectl_reply "show set reset" "$word" ;;
                esac
        fi
}

complete -F _moectl moectl
