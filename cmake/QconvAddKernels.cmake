# qconv_add_kernels(NAME
#     LAYERS layers.json               the layer file; the kernels are compiled anew when it changes
#     TARGETS target...                short names (qconvc list targets); "host" is the best of this machine
#     [DIRECTIONS direction...]        forward (the default), grad-input, grad-weight, training
#     [JOBS n]                         compiler processes at once; default: as many as CPUs
#     [SHARED])                        link libqconv.so in place of the static libraries
#
# compiles the layers when the project is built and defines the library NAME. Link it, include "NAME.h" and call
# NAME_register() once, which returns a qconv_status: the kernels of all TARGETS are then known, and each layer takes the
# best that the CPU runs. NAME also brings the runtime. Any number of such libraries share one Halide runtime, also with
# other Halide libraries of the program.
function(qconv_add_kernels name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "SHARED" "LAYERS;JOBS" "TARGETS;DIRECTIONS")
    set(call "qconv_add_kernels(${name})")
    if(arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "${call}: unknown argument '${arg_UNPARSED_ARGUMENTS}'; it takes LAYERS, TARGETS, DIRECTIONS, "
                            "JOBS and SHARED")
    endif()
    if(NOT name MATCHES "^[A-Za-z_][A-Za-z0-9_]*$")
        message(FATAL_ERROR "${call}: the name becomes part of C functions: letters, digits and '_' only")
    endif()
    if(NOT arg_LAYERS OR NOT arg_TARGETS)
        message(FATAL_ERROR "${call}: LAYERS and TARGETS are required")
    endif()
    if(NOT QCONV_QCONVC)
        message(FATAL_ERROR "${call}: no qconvc was found; set QCONV_QCONVC to an installed one that runs on this machine")
    endif()
    cmake_path(ABSOLUTE_PATH arg_LAYERS NORMALIZE OUTPUT_VARIABLE layers)
    if(NOT EXISTS "${layers}")
        message(FATAL_ERROR "${call}: LAYERS ${layers} does not exist")
    endif()
    _qconv_resolve_targets("${call}" targets gpu ${arg_TARGETS})

    set(folder "${CMAKE_CURRENT_BINARY_DIR}/${name}.qconv")
    set(command "${QCONV_QCONVC}" compile "${layers}" --output "${folder}" --name ${name})
    if(arg_DIRECTIONS)
        list(JOIN arg_DIRECTIONS "," directions)
        list(APPEND command --directions ${directions})
    endif()
    if(arg_JOBS)
        list(APPEND command --jobs ${arg_JOBS})
    endif()
    set(includes)
    set(calls)
    set(outputs)
    foreach(target IN LISTS targets)
        list(APPEND command --target ${target})
        list(APPEND outputs "${folder}/lib${name}_${target}.a" "${folder}/${name}_${target}.h")
        string(APPEND includes "#include \"${name}_${target}.h\"\n")
        string(APPEND calls "    if (status == QCONV_OK) status = ${name}_${target}_register();\n")
    endforeach()
    # Before the first build: who includes it is compiled after the headers that it includes are there.
    file(CONFIGURE OUTPUT "${folder}/${name}.h" @ONLY CONTENT
[[/* The kernels of @name@, for every target that they were compiled for. Made by qconv_add_kernels. */
#ifndef QCONV_KERNELS_OF_@name@
#define QCONV_KERNELS_OF_@name@

@includes@
#ifdef __cplusplus
extern "C" {
#endif

static inline qconv_status @name@_register(void) {
    qconv_status status = QCONV_OK;
@calls@    return status;
}

#ifdef __cplusplus
}
#endif
#endif
]])
    add_custom_command(
        OUTPUT ${outputs}
        COMMAND ${command}
        DEPENDS "${layers}" "${QCONV_QCONVC}"
        COMMENT "Compiling the kernels of ${name}"
        VERBATIM)
    add_custom_target(${name}_kernels DEPENDS ${outputs})

    if(gpu AND arg_SHARED)
        message(FATAL_ERROR "${call}: kernels of a GPU are linked with the static libraries: leave out SHARED")
    endif()
    set(runtime qconv::qconv qconv::halide_runtime)
    if(gpu)
        set(runtime qconv::qconv qconv::halide_runtime_gpu)
    endif()
    if(arg_SHARED)
        set(runtime qconv::shared)
    endif()
    foreach(library IN LISTS runtime)
        if(NOT TARGET ${library})
            message(FATAL_ERROR "${call}: this installation of qconv has no ${library}")
        endif()
    endforeach()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE "${folder}")
    # Imported libraries, so that programs are linked again when the kernels change.
    foreach(target IN LISTS targets)
        set(library ${name}_${target})
        add_library(${library} STATIC IMPORTED GLOBAL)
        set_target_properties(${library} PROPERTIES IMPORTED_LOCATION "${folder}/lib${name}_${target}.a"
                                                    INTERFACE_LINK_LIBRARIES "${runtime}")
        add_dependencies(${library} ${name}_kernels)
        target_link_libraries(${name} INTERFACE ${library})
    endforeach()
    target_link_libraries(${name} INTERFACE ${runtime})
    add_dependencies(${name} ${name}_kernels)
endfunction()

# _qconv_resolve_targets(CALL TARGETS_VARIABLE GPU_VARIABLE name...): the names that qconvc knows, without repeats, each of
# them for the platform that this package is for; and whether one of them is a GPU's.
function(_qconv_resolve_targets call targets_variable gpu_variable)
    execute_process(COMMAND "${QCONV_QCONVC}" list targets --json OUTPUT_VARIABLE json RESULT_VARIABLE status
                    ERROR_VARIABLE error)
    if(NOT status EQUAL 0)
        message(FATAL_ERROR "${call}: ${QCONV_QCONVC} does not run here: ${status} ${error}")
    endif()
    string(JSON count LENGTH "${json}" targets)
    math(EXPR last "${count} - 1")
    set(known)
    set(gpus)
    foreach(index RANGE ${last})
        string(JSON target GET "${json}" targets ${index} name)
        string(JSON halide GET "${json}" targets ${index} halide)
        string(JSON supported GET "${json}" targets ${index} supported)
        string(FIND "${halide}" "${QCONV_PLATFORM}" at)
        if(NOT at EQUAL 0)
            continue()
        endif()
        list(APPEND known ${target})
        if(halide MATCHES "-(cuda|opencl|vulkan)")
            list(APPEND gpus ${target})
        elseif(supported)
            set(host ${target}) # from the least to the most demanding
        endif()
    endforeach()
    set(targets)
    set(gpu OFF)
    foreach(target IN LISTS ARGN)
        if(target STREQUAL "host")
            if(CMAKE_CROSSCOMPILING OR NOT host)
                message(FATAL_ERROR "${call}: 'host' is the machine that builds; name the targets of the one that runs: "
                                    "${known}")
            endif()
            set(target ${host})
        endif()
        if(NOT target IN_LIST known)
            message(FATAL_ERROR "${call}: '${target}' is no target of ${QCONV_PLATFORM}; allowed: host, ${known}")
        endif()
        if(target IN_LIST gpus)
            set(gpu ON)
        endif()
        list(APPEND targets ${target})
    endforeach()
    list(REMOVE_DUPLICATES targets)
    set(${targets_variable} ${targets} PARENT_SCOPE)
    set(${gpu_variable} ${gpu} PARENT_SCOPE)
endfunction()
